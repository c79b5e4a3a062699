"""Foreign APIs over the same generations: OpenAI Images."""
