"""The report: runs gathered, drawn and written as one HTML page."""
