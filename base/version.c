/* version.c - which build of Drover this is. */
#include "base/version.h"

#include "base/version_commit.h" /* made by base/version_commit.cmake */

#define TEXT(x)   #x
#define NUMBER(x) TEXT(x)

#if defined(__clang__)
#define COMPILER                                                             \
    "clang " NUMBER(__clang_major__) "." NUMBER(__clang_minor__) "." NUMBER( \
        __clang_patchlevel__)
#else
#define COMPILER "gcc " __VERSION__
#endif

#if defined(DROVER_ASAN)
#define CHECKED ", AddressSanitizer"
#elif defined(DROVER_TSAN)
#define CHECKED ", ThreadSanitizer"
#else
#define CHECKED ""
#endif

const char *version_text(void)
{
    return DROVER_VERSION " (" DROVER_COMMIT DROVER_BUILD_TYPE ", " COMPILER CHECKED ")";
}
