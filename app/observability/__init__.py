"""What operators see: log lines. Loggers are made at the top and handed in."""
