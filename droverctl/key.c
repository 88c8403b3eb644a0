/* key.c - makes API keys. */
#include "droverctl/key.h"

#include <stdio.h>
#include <string.h>

#include "base/secure/api_keys.h"
#include "base/text/buf.h"
#include "droverctl/view.h"

int key_new(const char *name)
{
    char key[API_KEY_TEXT_BYTES];
    struct buf line = BUF_INIT;
    int status = EXIT_STATUS_FAILED;

    api_key_make(key);
    api_key_line(&line, name, key);
    /* The line first: a key without its line is of no use. */
    if (!line.failed && fputs(buf_cstr(&line), stdout) >= 0 && fflush(stdout) == 0 &&
        fprintf(stderr, "%s\n", key) >= 0)
        status = EXIT_STATUS_OK;
    explicit_bzero(key, sizeof(key));
    buf_finish(&line);
    return status;
}
