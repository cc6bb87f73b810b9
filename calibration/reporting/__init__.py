"""What calibration says: the verdict first, then figures, as JSON and as a page."""
