/* reasons.c - why a transfer to an engine failed, and what to do about it. */
#include "node/engine/look/reasons.h"

#include <stdio.h>

static const char *remedy(CURLcode code)
{
    switch ((int)code) {
    case CURLE_COULDNT_CONNECT:
        return "start the engine there, or correct --engine";
    case CURLE_COULDNT_RESOLVE_HOST:
        return "correct the host name in --engine";
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return "give --engine-ca FILE with the authority that signed it, or --engine-insecure";
    case CURLE_SSL_CONNECT_ERROR:
        return "is it https there, and not http?";
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_GOT_NOTHING:
        return "does an engine listen there, and is it http and not https?";
    case CURLE_OPERATION_TIMEDOUT:
        return "it is overloaded, stopped, or behind a firewall";
    default: /* libcurl has a hundred of them */
        return "see the engine's log";
    }
}

void reasons_of_transfer(char *out, size_t cap, CURLcode code, const char *details)
{
    /* The other texts hold times and counts. */
    if (code != CURLE_PEER_FAILED_VERIFICATION || details[0] == '\0')
        details = curl_easy_strerror(code);
    (void)snprintf(out, cap, "%s: %s", details, remedy(code));
}
