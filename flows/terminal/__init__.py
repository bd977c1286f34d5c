"""What commands share: options, progress, and how results are printed."""
