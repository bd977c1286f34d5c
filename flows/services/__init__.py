"""What goes on between commands: Prefect's server, the nights it starts, and whom it tells."""
