/* error_body.c - an error's body in the shape of the API that the client speaks. */
#include "node/body/error_body.h"

#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

void error_body_write(struct buf *out, int operation, const char *text)
{
    if (operation == OP(MESSAGES) || operation == OP(COUNT_TOKENS)) {
        buf_str(out, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\","
                     "\"message\":");
        json_quote_str(out, text);
        buf_str(out, "}}");
    } else if (meter_is_ndjson(operation)) {
        buf_str(out, "{\"error\":");
        json_quote_str(out, text);
        buf_str(out, "}");
    } else {
        buf_str(out, "{\"error\":{\"message\":");
        json_quote_str(out, text);
        buf_str(out, ",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
    }
}
