"""The page: header, host bar and one tab for each model."""
