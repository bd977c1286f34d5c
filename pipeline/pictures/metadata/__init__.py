"""What a picture file says besides its pixels, and what of it travels along."""
