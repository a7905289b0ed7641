"""What several gateways share through Redis or Valkey."""
