/* servable.c - whether any node could serve a request. */
#include "worker/upstreams/servable.h"

#include <stdbool.h>
#include <string.h>

#include "base/text/buf.h"
#include "proto/drover_common.pb-c.h"
#include "worker/api/catalog.h"
#include "worker/http/client_request.h"
#include "worker/upstreams/upstreams.h"

static bool is_too_large(const struct upstream_model *model, uint64_t message_bytes)
{
    for (size_t i = 0; i < model->servers_count; i++)
        if (upstreams_takes(&model->servers[i], message_bytes))
            return false;
    return model->servers_count != 0;
}

bool servable_operation(const struct upstream_model *model, int operation)
{
    bool drains = false, other = false;

    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if ((server->operations & (UINT32_C(1) << operation)) == 0)
            other |= upstreams_usable(server->node);
        else if (upstreams_drains(server->node))
            drains = true;
        else
            return true;
    }
    return drains && !other;
}

/* An option that gives an engine the operation; "" = none is known. */
static const char *hint_of(int operation)
{
    switch (operation) {
    case DROVER__V1__OPERATION__OPERATION_EMBEDDINGS:
        return " (llama-server has it with --embeddings)";
    case DROVER__V1__OPERATION__OPERATION_RERANK:
        return " (llama-server has it with --reranking)";
    default: /* an int from the wire */
        return "";
    }
}

/* Where the aliases stand that gave the request its model; NULL: none did. */
static const struct config *aliases_of(struct upstreams *upstreams,
                                       const struct client_request *request)
{
    return request->aliased ? upstreams_config(upstreams) : NULL;
}

enum api_error servable_check(struct upstreams *upstreams, const struct client_request *request,
                              uint64_t message_bytes, struct buf *message)
{
    const struct upstream_model *model;
    char name[NODE_MODEL_BYTES];

    /* The node that knows it by a longer name may have come since the request did. */
    (void)strlcpy(name, request->model, sizeof(name));
    upstreams_settle_name(upstreams, name);
    model = upstreams_find_fresh(upstreams, name);
    if (model == NULL) {
        if (upstreams_models_unknown(upstreams))
            return API_ERROR_NONE; /* one of these nodes may have it */
        catalog_say_missing(message, aliases_of(upstreams, request), request->client_model);
        return API_ERROR_MODEL_NOT_FOUND;
    }
    if (!servable_operation(model, request->operation)) {
        buf_str(message, "No node serves this API for the model ");
        catalog_say_name(message, aliases_of(upstreams, request), request->client_model);
        buf_printf(
            message,
            ": none of its engines has it%s, or the operator's --operations leaves it out",
            hint_of(request->operation));
        return API_ERROR_NOT_SUPPORTED;
    }
    if (is_too_large(model, message_bytes)) {
        buf_printf(message, "A request of %zu bytes is larger than any node of ",
                   request->body_len);
        catalog_say_name(message, aliases_of(upstreams, request), request->client_model);
        buf_str(message, " takes");
        return API_ERROR_TOO_LARGE;
    }
    return API_ERROR_NONE;
}

static bool serves_now(const struct upstream_model *model)
{
    for (size_t i = 0; model != NULL && i < model->servers_count; i++)
        if (upstreams_usable(model->servers[i].node))
            return true;
    return false;
}

const char *servable_nobody(struct upstreams *upstreams, const struct client_request *request)
{
    if (request->target == NULL && upstreams_find(upstreams, request->model) == NULL &&
        upstreams_models_unknown(upstreams))
        return "no node that is up has this model, but not all have said yet which they have";
    return serves_now(upstreams_find(upstreams, request->model))
               ? "no node that can take this request is up at the moment"
               : "no node that serves this model is up at the moment";
}
