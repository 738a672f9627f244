"""What a command does, once for all doors: configs, prediction plan, run summary, report, tuning."""
