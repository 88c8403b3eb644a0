/* descriptors.c - the process's limit of open files. */
#include "base/io/descriptors.h"

#include <sys/resource.h>

uint64_t descriptors_raise(uint64_t wanted)
{
    struct rlimit files, raised;

    if (getrlimit(RLIMIT_NOFILE, &files) == -1)
        return UINT64_MAX;
    if (files.rlim_cur >= wanted)
        return files.rlim_cur;
    raised = files;
    raised.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : files.rlim_cur;
}
