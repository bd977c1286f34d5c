"""What runs between commands: Prefect's server, the nights it starts, and notifications."""
