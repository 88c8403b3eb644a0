/* join_request.c - what a node that wants to join claims, and whether it proves it. */
#include "health/registry/join_request.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/text/text.h"
#include "proto/join.h"
#include "shm/facts/nodes.h"

const char *join_request_token(char *const tokens[JOIN_REQUEST_TOKENS],
                               const struct join_facts *facts, const uint8_t *proof)
{
    const char *proven = NULL;

    for (size_t i = JOIN_REQUEST_TOKENS; i-- > 0;) {
        const char *token = tokens[i];
        uint8_t wanted[JOIN_PROOF_BYTES];

        if (token == NULL)
            continue;
        join_proof(wanted, token, facts);
        if (join_equal(proof, wanted))
            proven = token;
    }
    return proven;
}

const char *join_request_facts(struct join_facts *facts, const Drover__V1__Register *said)
{
    if (!text_is_name(said->node_id, NODE_NAME_BYTES - 1))
        return "node_id is no name of 1 to 63 characters";
    if (said->instance_id.len != JOIN_INSTANCE_BYTES)
        return "instance_id is not 16 bytes";
    if (said->node_nonce.len != JOIN_NONCE_BYTES)
        return "node_nonce is not 32 bytes";
    if (said->join_proof.len != JOIN_PROOF_BYTES)
        return "join_proof is not 32 bytes";
    if (said->port < 1 || said->port > UINT16_MAX)
        return "port is not 1 to 65535";
    if (strlen(said->host) >= NODE_ADDRESS_BYTES)
        return "host is too long";
    memcpy(facts->instance_id, said->instance_id.data, JOIN_INSTANCE_BYTES);
    memcpy(facts->node_nonce, said->node_nonce.data, JOIN_NONCE_BYTES);
    facts->node_id = said->node_id;
    facts->host = said->host;
    facts->port = (uint16_t)said->port;
    return NULL;
}

int join_request_address(struct net_addr *out, const Drover__V1__Register *said,
                         const struct net_addr *peer, struct error *err)
{
    char text[NET_TEXT_BYTES + 16];
    char host[NET_TEXT_BYTES];

    if (said->host[0] == '\0') {
        if (peer->sa.ss_family == AF_UNIX)
            return error_set(err, DRV_EINVAL, "host is empty and the stream has no address");
        net_format_host(host, sizeof(host), peer);
    } else {
        (void)snprintf(host, sizeof(host), "%s", said->host);
    }
    (void)snprintf(text, sizeof(text), strchr(host, ':') == NULL ? "%s:%u" : "[%s]:%u", host,
                   (unsigned)said->port);
    return net_parse(out, text, err);
}
