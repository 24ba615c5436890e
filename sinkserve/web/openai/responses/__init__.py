"""`/v1/responses` and `/v1/conversations`: the server holds the conversation."""
