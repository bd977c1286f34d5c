"""What a user types: one file a subject. Heavy imports live inside the commands."""
