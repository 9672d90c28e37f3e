"""An HTTP server for an exported model: requests, answers, limits, and batches of concurrent requests."""
