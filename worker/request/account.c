/* account.c - what a request was: its line of access log, and its key's usage. */
#include "worker/request/account.h"

#include "base/clock.h"
#include "base/config/config.h"
#include "base/io/loop.h"
#include "shm/facts/usage.h"
#include "worker/context.h"
#include "worker/http/access_log.h"
#include "worker/http/client_request.h"
#include "worker/http/responder.h"
#include "worker/request/request_state.h"
#include "worker/select/select.h"

static const char *outcome_name(enum request_outcome outcome)
{
    switch (outcome) {
    case REQUEST_OUTCOME_NODE_ERROR:
        return "node_error";
    case REQUEST_OUTCOME_OK:
        return "ok";
    case REQUEST_OUTCOME_CLIENT_ERROR:
        return "client_error";
    case REQUEST_OUTCOME_TIMEOUT:
        return "timeout";
    case REQUEST_OUTCOME_REJECTED:
        return "rejected";
    }
    return "node_error";
}

void account_request(const struct request *req, bool gone)
{
    const struct client_request *client = req->client;
    const struct worker_context *context = req->context;
    const struct access_record record = {
        .id = client->id,
        .execution = req->was_dispatched ? client->execution_id : NULL,
        .client = client->client,
        .key = client->key_name,
        .method = "POST",
        .path = client->path,
        .model = client->client_model,
        .node = req->attempt->node_name[0] == '\0' ? NULL : req->attempt->node_name,
        .policy = policy_name(config_policy_for(context->config, req->model)),
        .outcome = gone ? "client_gone" : outcome_name(req->outcome),
        .reason = req->reported == API_ERROR_NONE ? NULL : api_error_reason(req->reported),
        .status = gone ? 499 : req->status,
        .attempts = req->attempts,
        .hedge = !req->hedged     ? NULL
                 : req->hedge_won ? "won"
                                  : "lost",
        .stream = client->stream,
        .bytes_in = responder_read(client->responder),
        .bytes_out = responder_written(client->responder),
        .prompt_tokens = req->prompt_tokens,
        .cached_tokens = req->cached_tokens,
        .output_tokens = req->output_tokens,
        .queue_us = req->waited_us,
        .ttft_us = req->ttft_us,
        .total_us = loop_now_us(context->loop) - req->started_mono_us,
    };

    access_log_write(context->access_log, &record);
    usage_add(context->board, client->usage_row, USAGE_PROMPT_TOKENS, req->prompt_tokens);
    usage_add(context->board, client->usage_row, USAGE_OUTPUT_TOKENS, req->output_tokens);
}
