"""APIs of OpenAI, Cohere and Jina over the same generations and scorer."""
