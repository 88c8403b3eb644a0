/*
 * freed.h - catches memory that is freed while a secret is still in it.
 *
 * The test links with -Wl,--wrap=free, so every free() of our own code comes through here.
 * Include it in one file of the test.
 */
#ifndef DROVER_TESTS_FREED_H
#define DROVER_TESTS_FREED_H

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void __real_free(void *p);
void __wrap_free(void *p);

static const char *freed_secret; /* what must not be in freed memory; NULL = do not look */
static unsigned freed_with_secret;

void __wrap_free(void *p)
{
    if (p != NULL && freed_secret != NULL &&
        memmem(p, malloc_usable_size(p), freed_secret, strlen(freed_secret)) != NULL)
        freed_with_secret++;
    __real_free(p);
}

#endif
