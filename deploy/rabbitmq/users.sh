#!/usr/bin/env bash
# RabbitMQ users with the least that each needs, none of them with the right to configure. Safe to repeat; run where rabbitmqctl
# works. Passwords come from variables, so that they are on no command line; a user whose variable is empty is left as it is.
#
#   PAYONCE_WORKER_PASSWORD=… PAYONCE_PUBLISHER_PASSWORD=… PAYONCE_OPS_PASSWORD=… PAYONCE_FEED_PASSWORD=… \
#     deploy/rabbitmq/users.sh
#
# Variables: PAYONCE_PREFIX (as in payonce's settings), PAYONCE_VHOST (default /), RABBITMQCTL (default rabbitmqctl).
# Exchange and queues are made by `payonce migrate --declare`, with a user that may configure and that nothing else uses.
set -euo pipefail

vhost=${PAYONCE_VHOST:-/}
# The prefix is a text, the permissions are regular expressions.
name=$(printf '%spayment.callbacks' "${PAYONCE_PREFIX:-}" | sed 's/[][\.*^$+?(){}|]/\\&/g')
events=${name%callbacks}events
ctl() { ${RABBITMQCTL:-rabbitmqctl} --silent "$@"; }
known=$(ctl list_users | cut -f1)

# USER PASSWORD CONFIGURE WRITE READ
user() {
    [ -n "$2" ] || return 0
    if grep -qx "$1" <<<"$known"; then
        printf '%s\n' "$2" | ctl change_password "$1"
    else
        printf '%s\n' "$2" | ctl add_user "$1"
    fi
    ctl set_permissions -p "$vhost" "$1" "$3" "$4" "$5"
}

# Takes from both queues; publishes nothing, makes and removes nothing.
user payonce_worker "${PAYONCE_WORKER_PASSWORD:-}" '^$' '^$' "^$name(\\.dead)?\$"
# Publishes to the exchange; takes nothing. (A queue has the exchange's name; to bind it to something would need a right to read.)
user payonce_publisher "${PAYONCE_PUBLISHER_PASSWORD:-}" '^$' "^$name\$" '^$'
# Asks how long the queues are, which needs no permission but to be there.
user payonce_ops "${PAYONCE_OPS_PASSWORD:-}" '^$' '^$' '^$'
# Publishes to the exchange of events; takes nothing.
user payonce_feed "${PAYONCE_FEED_PASSWORD:-}" '^$' "^$events\$" '^$'
