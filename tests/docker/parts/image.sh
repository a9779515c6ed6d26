# The image of outboxd: what is in it, as whom it runs, and that it runs without a file.

docker build --quiet -f docker/Dockerfile -t outboxd . >/dev/null
inspect() { docker image inspect --format "$1" outboxd; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
equal "label of the version" "$(inspect '{{index .Config.Labels "org.opencontainers.image.version"}}')" "$version"
equal "label of the licences" "$(inspect '{{index .Config.Labels "org.opencontainers.image.licenses"}}')" "MIT OR Apache-2.0"
equal "user" "$(inspect '{{.Config.User}}')" 65534:65534
contains "health check" "$(inspect '{{json .Config.Healthcheck.Test}}')" '"outboxd","health"'

equal "version of the program" "$(docker run --rm outboxd --version)" "outboxd $version"
docker run --rm --read-only --cap-drop ALL --network none outboxd schema | grep -q "CREATE TABLE outbox" || fail "schema prints no table"
if docker run --rm --entrypoint sh outboxd -c true 2>/dev/null; then fail "the image has a shell"; fi

# Variables alone are a configuration; nothing at all is none.
docker run --rm --network none -e OUTBOXD__RABBITMQ__URL=amqp://rabbitmq \
    -e OUTBOXD__SOURCES__ORDERS__POSTGRES__URL=postgresql://outboxd@postgres/orders \
    outboxd check --offline || fail "variables of the environment alone are not enough"
status=0
docker run --rm outboxd 2>/tmp/said || status=$?
equal "exit status without a configuration" "$status" 78
contains "what it says then" "$(cat /tmp/said)" /etc/outboxd/outboxd.toml

# The list of crates and the licences, as the page says they are read.
made=$(docker create outboxd)
mkdir -p /tmp/doc
docker cp "$made:/usr/share/doc/outboxd/." /tmp/doc
docker export "$made" | tar -t | sort >/results/files.txt
docker rm "$made" >/dev/null
equal "format of the list of crates" "$(jq -r .bomFormat /tmp/doc/outboxd.cdx.json)" CycloneDX
[ "$(jq '.components | length' /tmp/doc/outboxd.cdx.json)" -ge 50 ] || fail "fewer than 50 crates are listed"
for file in THIRD-PARTY-NOTICES LICENSE-APACHE LICENSE-MIT; do [ -s "/tmp/doc/$file" ] || fail "$file is not in the image"; done
say "the image has $(grep -c '[^/]$' /results/files.txt) files and $(inspect '{{.Size}}') bytes"
