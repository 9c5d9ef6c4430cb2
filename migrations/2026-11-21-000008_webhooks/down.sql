DROP TABLE webhook_deliveries, events, webhook_endpoints;
DROP TYPE delivery_state, endpoint_state;
