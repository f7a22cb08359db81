"""What an error means and how abandoned work comes back."""
