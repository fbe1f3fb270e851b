"""The gateway: phones fetch their subnet over HTTP, train it and send back what they learned."""
