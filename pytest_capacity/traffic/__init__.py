"""What is sent, and when: arrival processes and the schedules made of them."""
