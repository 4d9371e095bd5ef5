"""Trading calendars that a profile may name: ISO 10383 codes of exchanges, and `24/7`; whose trading days are known."""

ALWAYS_OPEN = "24/7"

_AMERICAS = "XNYS XNAS XASE ARCX BATS IEXG XCBO XCBF XCME XCBT XNYM XCEC IFUS XTSE XTSX XMEX BVMF XSGO XBOG XLIM XBUE"
_EUROPE = (
    "XLON XLME IFEU XPAR XAMS XBRU XLIS XDUB XMIL XMAD XETR XFRA XEUR XSWX XSTO XHEL XCSE XOSL XICE XWAR XPRA XBUD "
    "XWBO XATH XIST XTAL XRIS XLIT XBSE"
)
_ASIA_PACIFIC = (
    "XTKS XOSE XHKG XHKF XSHG XSHE XSGE XDCE XZCE XKRX XKFE XTAI XTAF XSES XASX XSFE XNZE XBOM XNSE XKLS XIDX XBKK "
    "XPHS XSTC XKAR"
)
_AFRICA_AND_MIDDLE_EAST = "XJSE XNAI XCAI XTAE XSAU XDFM XADS DSMD XKUW XBAH"

CALENDARS = frozenset(f"{_AMERICAS} {_EUROPE} {_ASIA_PACIFIC} {_AFRICA_AND_MIDDLE_EAST}".split())

# Of these exchange_calendars 4.13, which knows trading days, has none; those of the last two it cannot build.
# A profile may say the days itself, or whose days they are.
_WITHOUT = (
    "DSMD IEXG IFEU IFUS XADS XATH XBAH XCAI XCBO XCBT XCEC XCME XDCE XDFM XHKF XKFE XKUW XLME XNAI XNSE XNYM XOSE "
    "XSFE XSGE XSHE XSTC XTAF XZCE XBSE XTAE"
)
WITHOUT_DAYS = frozenset(_WITHOUT.split())
# Calendars of the library that are no exchange's: CME's Globex, ICE's in the US.
DAYS_ONLY = frozenset(("CMES", "IEPA"))
DAYS_OF = (CALENDARS - WITHOUT_DAYS) | DAYS_ONLY
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
