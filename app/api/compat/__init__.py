"""Foreign APIs over the same generations and the same scorer: OpenAI, Cohere and Jina."""
