"""The gateway: phones fetch their subnet over HTTP, train it and upload the update."""
