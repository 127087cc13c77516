"""Long responses: streaming, Parquet, the connection to the client."""
