-- Turnover and rejection rate by customer, from the order history's view. PENDING orders count in neither: nobody has
-- decided about them. Orders of unknown customers are in no line.
SELECT customers.id AS customer_id,
       customers.name,
       coalesce(sum(orders.total) FILTER (WHERE orders.state = 'APPROVED'), 0) AS turnover,
       count(orders.id) FILTER (WHERE orders.state <> 'PENDING') AS orders_decided,
       round(100.0 * count(orders.id) FILTER (WHERE orders.state = 'REJECTED')
             / nullif(count(orders.id) FILTER (WHERE orders.state <> 'PENDING'), 0), 1) AS rejected_percent
FROM customers
LEFT JOIN orders ON orders.customer_id = customers.id
GROUP BY customers.id, customers.name
ORDER BY turnover DESC, customers.id;
