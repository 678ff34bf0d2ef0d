"""What happens to models: jobs that make them, the store that keeps them, the rule that promotes them."""
