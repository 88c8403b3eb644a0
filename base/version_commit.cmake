# version_commit.cmake - writes OUTPUT, a header with the commit that SOURCE is at, when that has changed:
# cmake -DSOURCE=DIR -DOUTPUT=FILE -P version_commit.cmake
# A tarball has none, also when it lies in somebody else's work tree.
set(commit "")
execute_process(COMMAND git -C ${SOURCE} rev-parse --show-toplevel OUTPUT_VARIABLE top
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(status EQUAL 0)
    file(REAL_PATH ${SOURCE} source)
    file(REAL_PATH ${top} top)
    if(source STREQUAL top)
        execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE hash
            OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
        execute_process(COMMAND git --no-optional-locks -C ${SOURCE} status --porcelain --untracked-files=no
            OUTPUT_VARIABLE changes ERROR_QUIET)
        if(status EQUAL 0)
            set(commit "commit ${hash}, ")
            if(changes)
                set(commit "commit ${hash}-changed, ")
            endif()
        endif()
    endif()
endif()
set(text "#define DROVER_COMMIT \"${commit}\"\n")
if(EXISTS ${OUTPUT})
    file(READ ${OUTPUT} old)
endif()
if(NOT "${old}" STREQUAL "${text}")
    file(WRITE ${OUTPUT} "${text}")
endif()
