"""The gateway's client: a device enrols, fetches its model, trains and sends the update."""
