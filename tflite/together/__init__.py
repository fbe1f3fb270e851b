"""A device's side of the gateway: it enrols, fetches its model, trains and sends the update."""
