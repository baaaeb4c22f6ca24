#define POCKETVLM_ISA avxvnni
#include "peak/peak_kernel.h"
