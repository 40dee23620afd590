"""What the page's tabs share: plan card, wishes, progress and errors, predicted against measured, the host bar."""
