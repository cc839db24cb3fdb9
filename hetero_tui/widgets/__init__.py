"""What is drawn. Live widgets use Textual's line API and pull from the store ten times a second when visible."""
