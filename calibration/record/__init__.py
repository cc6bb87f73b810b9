"""What calibration observes: the log-odds of every exit, what segments cost, and the file that keeps both."""
