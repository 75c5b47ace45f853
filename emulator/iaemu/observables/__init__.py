"""What surveys measure, from the correlation functions that the models predict."""
