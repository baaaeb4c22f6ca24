#define POCKETVLM_ISA neondot
#include "peak/peak_kernel.h"
