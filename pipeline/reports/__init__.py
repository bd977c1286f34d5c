"""What people look at: pages, tile maps, portraits and contact sheets."""
