"""The endpoints for programs: OpenAI's protocol under `/v1`, domainlm's own under `/api`."""

from domainlm.server.api import (
    ask,
    documents,
    feedback,
    jobs,
    models,
    openai,
    runs,
    session,
    state,
)

ROUTERS = (
    openai.router,
    ask.router,
    feedback.router,
    runs.router,
    documents.router,
    jobs.router,
    models.router,
    session.router,
    state.router,
)
