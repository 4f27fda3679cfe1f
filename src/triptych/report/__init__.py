"""What a compression cost, as data (report.json) and as one page (report.html)."""
