#!/bin/sh
# install.sh [api] [views] [page] [systemd] [docker] [kubernetes] [package]
#
# Installs what building and testing need and this machine lacks: a C linker, curl, PostgreSQL and RabbitMQ, from Debian's packages.
# `api`: also Python with venv, and Node with npm.
# `views`: also Go, a JDK and Maven.
# `page`: also Chromium with its driver, and the font of the pictures.
# `systemd`: also debootstrap and systemd-nspawn, for a booted root.
# `docker`: also debootstrap.
# `kubernetes`: also Go, and Python with venv.
# `package`: also what makes and checks a Debian package.
# Starts and changes no service of the machine: tests and demo start private nodes.
# Needs neither network nor root when nothing is missing.

set -eu

missing=
needs() { missing="$missing $*"; }
any_exists() { for file in "$@"; do [ -e "$file" ] && return 0; done; return 1; }

# Procedures of the book, which tests run, ask outboxd with curl.
command -v curl >/dev/null || needs curl
command -v cc >/dev/null || needs gcc libc6-dev
any_exists /usr/lib/postgresql/*/bin/postgres || needs postgresql
any_exists /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server || needs rabbitmq-server
for more in "$@"; do
    case $more in
        api)
            python3 -c 'import ensurepip, venv' 2>/dev/null || needs python3-venv
            command -v node >/dev/null || needs nodejs
            command -v npm >/dev/null || needs npm
            ;;
        views)
            command -v go >/dev/null || needs golang-go
            command -v javac >/dev/null || needs default-jdk-headless
            command -v mvn >/dev/null || needs maven
            ;;
        page)
            command -v chromium >/dev/null || needs chromium
            command -v chromedriver >/dev/null || needs chromium-driver
            any_exists /usr/share/fonts/opentype/inter /usr/share/fonts/truetype/inter || needs fonts-inter
            ;;
        systemd)
            command -v debootstrap >/dev/null || needs debootstrap
            command -v systemd-nspawn >/dev/null || needs systemd-container
            ;;
        docker)
            command -v debootstrap >/dev/null || needs debootstrap
            ;;
        kubernetes)
            command -v go >/dev/null || needs golang-go
            python3 -c 'import ensurepip, venv' 2>/dev/null || needs python3-venv
            ;;
        package)
            command -v dpkg-shlibdeps >/dev/null || needs dpkg-dev
            command -v lintian >/dev/null || needs lintian
            ;;
        *) echo "install.sh does not know $more" >&2 && exit 2 ;;
    esac
done
[ -n "$missing" ] || exit 0

echo "Installing$missing"
if ! command -v apt-get >/dev/null; then
    echo "No apt-get here. Please install by hand what these packages of Debian hold:$missing." >&2
    echo "PostgreSQL and RabbitMQ are looked for in /usr/lib/postgresql and /usr/lib/rabbitmq." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif ! command -v sudo >/dev/null; then
    echo "This needs root, and there is no sudo. As root: apt-get install --no-install-recommends$missing" >&2
    exit 1
elif [ -t 2 ]; then
    as_root=sudo # may ask for a password on the terminal
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "This needs root, and sudo asks for a password, for which there is no terminal." >&2
    echo "As root: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/outboxd-tests.conf
ours="written by tests/install.sh of outboxd for the time of an installation"

no_folder=no
[ -d "${no_cluster%/*}" ] || no_folder=yes

restore() {
    # Keeps a file that existed before.
    for file in "$policy" "$no_cluster"; do
        if grep -qs "$ours" "$file"; then $as_root rm -f "$file"; fi
    done
    if [ "$no_folder" = yes ]; then $as_root rmdir "${no_cluster%/*}" 2>/dev/null || true; fi
}
# Creates a file, unless it exists.
create() { # FILE MODE, content from standard input
    $as_root mkdir -p "${1%/*}"
    if $as_root sh -c 'set -C; cat >"$1"' sh "$1" 2>/dev/null; then $as_root chmod "$2" "$1"; fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Debian's packages start their service at installation, unless this script exits with 101.
printf '#!/bin/sh\n# %s\nexit 101\n' "$ours" | create "$policy" 755
printf '# %s\ncreate_main_cluster = false\n' "$ours" | create "$no_cluster" 644

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null
}
# apt-get does not wait for the lock of the package lists.
tries=0
until apt update; do
    tries=$((tries + 1))
    if [ "$tries" -ge 12 ]; then
        echo "apt-get update does not succeed; trying with the package lists that are there" >&2
        break
    fi
    sleep 5
done
# shellcheck disable=SC2086
apt install --no-install-recommends $missing

# A service that this script installed must not start at the next boot either.
if command -v systemctl >/dev/null; then
    for package in $missing; do
        case $package in
            postgresql | rabbitmq-server) $as_root systemctl disable "$package" >/dev/null 2>&1 || true ;;
        esac
    done
fi
