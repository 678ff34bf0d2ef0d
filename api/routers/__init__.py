"""Routes of the HTTP server; one module a subject, with its request and response models beside its routes."""
