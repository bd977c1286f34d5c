"""How well a network does on published benchmark sets."""
