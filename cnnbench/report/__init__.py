"""Records shown to people: tables for the terminal and Markdown, figures, and one HTML page."""
