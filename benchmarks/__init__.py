"""What is measured against whom, runnable by anyone. Results are printed, never committed as truth."""
