/* call_proofs.c - see call_proofs.h. */
#include "proto/call_proofs.h"

size_t call_proofs_make(struct call_proofs *out, char *const tokens[2],
                        const uint8_t instance_id[JOIN_INSTANCE_BYTES])
{
    static const char *const names[] = {JOIN_CALL_METADATA, JOIN_CALL_PREVIOUS_METADATA};
    size_t count = 0;

    while (count < ARRAY_LEN(names) && tokens[count] != NULL) {
        join_call_proof(out->bytes[count], tokens[count], instance_id);
        out->metadata[count] = (struct call_metadata){
            .name = names[count], .value = out->bytes[count], .len = JOIN_PROOF_BYTES};
        count++;
    }
    return count;
}
