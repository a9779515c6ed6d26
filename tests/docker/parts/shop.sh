# docker/compose.shop.yaml, as the page starts it: an order through the gateway is approved, and a database may be away.

relay down --volumes 2>/dev/null
shop() { docker compose -f docker/compose.shop.yaml "$@"; }
order() { # ID: its state
    curl -s "http://127.0.0.1:8080/api/orders/$1" | jq -r .orderState
}
is_up() { [ "$(prometheus "up{instance=\"$1\"}")" = 1 ]; }
is_in_state() { [ "$(order "$1")" = "$2" ]; }

run_step "The shop" 1
for service in order-service customer-service order-history api-gateway outboxd; do
    is_healthy "$(shop ps --all --quiet "$service")" || fail "$service is $(health "$(shop ps --all --quiet "$service")")"
done
for port in 8080 8081 8082 8083; do
    eventually 60 "the service at port $port is ready" curl -sf "http://127.0.0.1:$port/readyz"
done
eventually 60 "outboxd is ready" ready
contains "the page" "$(curl -s http://127.0.0.1:8080/)" "<html"

said=$(run_step "The shop" 2)
contains "the order's history" "$said" APPROVED
customer=$(curl -s http://127.0.0.1:8080/api/customers | jq -r '.customers[0].customerId')
first=$(curl -s "http://127.0.0.1:8080/api/orders?customerId=$customer" | jq -r '.orders[0].orderId')
equal "state of the first order" "$(order "$first")" APPROVED

second=$(run_step "The shop" 3 2>/dev/null | jq -r .orderId)
sleep 5
equal "state while customers-db is away" "$(order "$second")" PENDING
run_step "The shop" 4 2>/dev/null
eventually 90 "the second order is approved" is_in_state "$second" APPROVED

for target in outboxd:9464 order-service:8081 customer-service:8082 order-history:8083 api-gateway:8080; do
    eventually 30 "Prometheus has scraped $target" is_up "$target"
done
# Each service reaches its own database only.
for service in orders customers history; do
    for server in orders customers history; do
        if [ "$service" != "$server" ] && shop exec -T -e PGPASSWORD=secret "$server-db" psql -h 127.0.0.1 -U "$service" -d "$server" -c '' 2>/dev/null; then
            fail "$service logs in to the database of $server"
        fi
    done
done
run_step "The shop" 5
equal "containers that are left" "$(docker ps --all --quiet --filter label=com.docker.compose.project=outboxd-shop)" ""
