#!/bin/sh
# The official image reads no variable that the compose files set. As there, the user "guest" may log in from other containers,
# log lines go to standard output, and a signal reaches the server.
set -eu
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
export HOME=/var/lib/rabbitmq RABBITMQ_LOGS=- LANG=C.UTF-8
[ "$1" = rabbitmq-server ] || exec "$@"
# Debian's /usr/sbin/rabbitmq-server writes into a pid file and a log file around the server.
exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
